"""At run time a signature is nothing. What checkers see of this module is in signatures.pyi."""

adaptive = None
affine = None
averaging = None
averaging1 = None
classification = None
convolution = None
convolution1 = None
distance = None
likelihood = None
pooling = None
pooling1 = None
transposed = None
