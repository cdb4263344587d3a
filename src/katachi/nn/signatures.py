"""At run time a signature is nothing. What checkers see of this module is in signatures.pyi."""

adaptive = None
affine = None
averaging = None
classification = None
convolution = None
distance = None
likelihood = None
pooling = None
transposed = None
