"""Counters of the driver, by name."""

from habana_frameworks.torch.standin import counts


class Metric:
    def __init__(self, name):
        self._name = name

    def stats(self):
        if self._name == "graph_compilation":
            return [("TotalNumber", counts["compilations"]), ("TotalTime", 0), ("AvgTime", 0)]
        return [("TotalHit", counts["hits"]), ("TotalMiss", counts["misses"])]


def metric_global(name):
    assert name in ("graph_compilation", "recipe_cache"), name
    return Metric(name)
