"""Where traced modules run; here they all run on the CPU."""


def set_neuron_cores(trace, start_nc=-1, nc_count=-1):
    """Nothing is moved."""
