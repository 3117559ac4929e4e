"""The tasks, one file each; this file is the list of their classes."""

from wbench.errors import KnobError, UnknownNameError, closest
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
        task: A task, or its registered name, which options may follow: `digits labels_per_class=2 hidden=128,64`.
        options: Text values of its options, when given by name.

    Returns:
        The task.

    Raises:
        UnknownNameError: If no task has that name; names the closest.
        KnobError: If what follows the name is no option.
    """
    if isinstance(task, Task):
        return task
    found = all()
    name, *pairs = task.split()
    if name not in found:
        raise UnknownNameError(f"unknown task '{name}'.{closest(name, found)}")
    given = dict(options or {})
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign:
            raise KnobError(
                f"task '{task}': '{pair}' is not allowed; allowed: the task's name, then option=value, with spaces between"
            )
        given[key] = value
    return found[name].from_strings(given)


def task_text(task: Task) -> str:
    """Return a task as text that `find_task` understands: its name, and the options that differ from their defaults.

    Args:
        task: A registered task.
    """
    usual = type(task)().fields()
    changed = {key: value for key, value in task.fields().items() if value != usual[key]}
    shown = {
        key: ",".join(map(str, value)) if isinstance(value, list) else str(value) for key, value in changed.items()
    }
    return " ".join([task.id, *(f"{key}={value}" for key, value in shown.items())])


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
    "task_text",
]
