"""The commands that train, as modules of the package: the scripts of the checkout are not in a wheel."""
