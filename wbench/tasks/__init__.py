"""The tasks, one file each; this file is the list of their classes."""

from wbench.errors import UnknownNameError, closest
from wbench.task import Task
from wbench.tasks.chars import Chars
from wbench.tasks.digit_domains import DigitDomains
from wbench.tasks.digit_streams import DigitStreams
from wbench.tasks.digits import Digits
from wbench.tasks.fashion import Fashion
from wbench.tasks.linear_teacher import LinearTeacher
from wbench.tasks.mnist import Mnist
from wbench.tasks.quantiles import Quantiles


def all() -> dict[str, type[Task]]:
    """Return every task class by id."""
    classes: list[type[Task]] = [Digits, Mnist, Fashion, Chars, DigitDomains, DigitStreams, LinearTeacher, Quantiles]
    return {cls.id: cls for cls in classes}


def find_task(task: Task | str, options: dict[str, str] | None = None) -> Task:
    """Return a task by name or as given.

    Args:
        task: A task or its registered name.
        options: Text values of its options, when given by name.

    Returns:
        The task.

    Raises:
        UnknownNameError: If no task has that name; names the closest.
    """
    if isinstance(task, Task):
        return task
    found = all()
    if task not in found:
        raise UnknownNameError(f"unknown task '{task}'.{closest(task, found)}")
    return found[task].from_strings(options or {})


def get(task_id: str) -> type[Task]:
    """Return a task's class.

    Args:
        task_id: Its id, e.g. `digits`; an unknown one is refused with the closest names.
    """
    return type(find_task(task_id))


__all__ = [
    "Chars",
    "DigitDomains",
    "DigitStreams",
    "Digits",
    "Fashion",
    "LinearTeacher",
    "Mnist",
    "Quantiles",
    "all",
    "find_task",
    "get",
]
