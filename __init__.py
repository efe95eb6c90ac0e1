"""dlmbench measures autoregressive and diffusion language models against each other, on real hardware.

One question drives it: on this hardware, for this work, is it faster, cheaper and better to generate text token by
token or by parallel denoising, and why?

The rooms, and who may import whom (always downwards):

    bench      runs it       CLI, suites, the sweep, the worker that measures, statistics
    reports    shows it      tables, figures, HTML, terminal, Markdown, exports
    models     is measured   backbone, AR and diffusion generators, sampling, checkpoints, matched pairs
    profiles   measures it   clocks, observer, environment, calibration, metric definitions, the record

    bench -> reports -> profiles,  bench -> models,  bench -> profiles
"""

import errno

__version__ = "0.1.0"

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""What a place answers that cannot be written; any other OSError is a fault of ours."""


class InputError(ValueError):
    """Something the user gave cannot be used: a flag, a suite, a pair, a checkpoint, a prompt file, a run folder.

    The message is one line that names the place, what was found, what was expected and what to do. The command line
    prints it and exits with code 2; nothing has been written when it is raised.
    """
