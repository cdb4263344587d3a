"""At run time a signature is nothing. What checkers see of this module is in signatures.pyi."""

accumulation = assigning = binary = choice = comparison = copying = counting = diagonal = None
drawing = expecting = filling = gradient = indexing = joining = mapping = permutation = None
product = pullback = pulled_values = pulling = pushforward = reduction = reflected = None
repeating = reshaping = searching = squeezing = stacking = tracking = valued_gradient = variance = None
verdict = None
