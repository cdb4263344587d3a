"""At run time a signature is nothing. What checkers see of this module is in signatures.pyi."""

affine = None
classification = None
convolution = None
distance = None
pooling = None
