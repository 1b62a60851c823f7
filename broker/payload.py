"""Payload: what AWS would have handed to a function; pure.

`payload = "aws"` gives a function the shape that AWS' own sources have, so that libraries for AWS Lambda read it. What
a source's events look like is the source's to say (`Source.aws`); here is what all of them share.
"""

from __future__ import annotations

REGION = "local"
ACCOUNT = "000000000000"


def arn(service: str, resource: str, region: str = REGION) -> str:
    """Return the Amazon Resource Name of something of ours: `arn:aws:lambda:local:000000000000:function:thumbnail`."""
    return f"arn:aws:{service}:{region}:{ACCOUNT}:{resource}"
