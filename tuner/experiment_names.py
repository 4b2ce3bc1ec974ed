"""Names of experiments, as `launch --help` has them without importing any framework."""

NAMES = (
    "reptile_omniglot",
    "reptile_mnist",
    "reptile_fashion_mnist",
    "dcgan_fashion_mnist",
    "cgan_fashion_mnist",
    "infogan_fashion_mnist",
)
ALL = "all"  # in place of a name
