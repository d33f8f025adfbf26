"""Texts with gaps: `str.format`, which is all that a mail of three sentences needs.

    WELCOME = Template(
        subject="Welcome, {name}",
        text="Hello {name},\n\nyour account is ready: {link}\n",
        html="<p>Hello {name},</p><p><a href='{link}'>your account</a> is ready.</p>",
    )
    await send(session, WELCOME.email(user.email, name=user.display_name, link=link))

The template is the programmer's, the values are anybody's: in HTML they are escaped, and a line break in a value cannot
leave the subject.
"""

import html
from dataclasses import dataclass
from typing import Any

from app.core.messages.kinds import Email


@dataclass(frozen=True, slots=True)
class Template:
    """An e-mail with gaps `{like_this}`; a brace of its own is written twice."""

    subject: str
    text: str
    html: str | None = None

    def email(self, to: str, **values: Any) -> Email:
        """The e-mail with every gap filled.

        Args:
            to: the address.
            values: by name; too many do no harm.

        Raises:
            KeyError: a value is missing.
        """
        plain = {name: str(value) for name, value in values.items()}
        # One line, whatever a person has for a name.
        line = {name: " ".join(value.split()) for name, value in plain.items()}
        escaped = {name: html.escape(value) for name, value in plain.items()}
        return Email(
            to=to,
            subject=self.subject.format_map(line),
            text=self.text.format_map(plain),
            html=None if self.html is None else self.html.format_map(escaped),
        )
