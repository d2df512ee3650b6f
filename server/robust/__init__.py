"""Rules that make one update of many and stay near the honest ones although some are hostile.

They stand behind the detector, for what no detector can see. Each is pure: the same updates give the same bytes, in
whatever order they come. A rule says how much of each update is in the result, out of the Gram matrix of all, or takes
each coordinate by itself; so nearest-neighbour mixing fits before any of them without a matrix of mixed updates.

===================  =========================================  ====================
rule                 what it takes                              a pass over all for
===================  =========================================  ====================
mean                 all                                        the result
median               the middle of each coordinate              the result
trimmed_mean         each coordinate without its extremes       the result
geometric_median     the point nearest to all                   distances, result
multi_krum           updates with near neighbours               distances, result
centred_clipping     all, cut at a radius                       distances, result
... with mixing      the same of means of neighbours            distances, result
===================  =========================================  ====================
"""

from server.robust.choose import Aggregate, aggregate
from server.robust.matrix import Updates

__all__ = ["Aggregate", "Updates", "aggregate"]
