"""Which process writes a sweep's runs: a driver that was killed cannot end them itself."""

import json
import platform

import psutil


def this_driver() -> str:
    """Names this process beyond the reuse of its number: host, process id, and when it was started."""
    process = psutil.Process()
    return json.dumps({"host": platform.node(), "pid": process.pid, "started": process.create_time()})


def is_gone(mark: str) -> bool:
    """Whether the driver of a mark ran on this host and runs no more; False where that cannot be known from here."""
    try:
        driver = json.loads(mark)
        if driver["host"] != platform.node():
            return False
        process = psutil.Process(driver["pid"])
        # The start of a process is derived from the clock's, which may be corrected by a moment in between.
        is_another = abs(process.create_time() - driver["started"]) > 5
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError):
        return False
