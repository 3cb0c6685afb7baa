"""Where a secret is kept that a file of ours names: an environment variable or a file.

Must never show what it read.
"""

from dataclasses import dataclass
from pathlib import Path

from worker import settings
from worker.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One of the two.

    Attributes:
        env: name of an environment variable; not one of ours.
        file: path of a small text file.
    """

    env: str | None = None
    file: Path | None = None

    def read(self, where: str) -> str:
        """Return the secret.

        Args:
            where: who asks, for the message.

        Raises:
            SettingsError: it is not there, is empty or cannot be read.
        """
        if self.env is not None:
            text = settings.secret(self.env) or ""
            fix = f"set the environment variable {self.env} in every worker"
        else:
            fix = f"put it into {self.file}, readable by the workers"
            try:
                text = Path(self.file or "").read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsError(
                    f"{where}: {self.file} cannot be read ({type(error).__name__})"
                ) from None
        if not text.strip():
            raise SettingsError(f"{where}: its secret is missing; {fix}")
        return text.strip()
