"""APScheduler: JOBS jobs of one second each, spread evenly, for so many SECONDS; prints how late each call was.

apscheduler_app.py JOBS SECONDS
"""

import json
import logging
import sys
import time
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_EXECUTED
from apscheduler.schedulers.background import BackgroundScheduler

logging.disable(logging.WARNING)


def main():
    jobs, seconds = int(sys.argv[1]), int(sys.argv[2])
    late = []
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.add_listener(
        lambda event: late.append((event.retval - event.scheduled_run_time.timestamp()) * 1000), EVENT_JOB_EXECUTED
    )
    scheduler.start(paused=True)
    first = datetime.now(UTC) + timedelta(seconds=1)
    last = first + timedelta(seconds=seconds)
    for number in range(jobs):
        start = first + timedelta(seconds=number / jobs)
        scheduler.add_job(time.time, "interval", seconds=1, start_date=start, end_date=last - timedelta(microseconds=1))
    scheduler.resume()
    time.sleep(seconds + 3)
    scheduler.shutdown(wait=False)
    print(json.dumps({"late": late, "expected": jobs * seconds}))


if __name__ == "__main__":
    main()
