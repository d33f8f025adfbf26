"""What a file may be called: on the screen, and in the header of its download."""

from pathlib import PureWindowsPath
from urllib.parse import quote

from app.features.documents.extraction import MediaType
from app.features.documents.extraction.text import clean_line, shorten

MAX_TITLE = 200
# The first is added to a name that has none of them, so that no program is started by the ending of a text.
_ENDINGS = {
    MediaType.TEXT: (".txt", ".text", ".log", ".csv"),
    MediaType.MARKDOWN: (".md", ".markdown"),
    MediaType.HTML: (".html", ".htm", ".xhtml"),
    MediaType.PDF: (".pdf",),
    MediaType.DOCX: (".docx",),
}
# What Windows, and a shell into which somebody pastes a name, take for something else.
_UNSAFE = str.maketrans(dict.fromkeys('<>:"/\\|?*`$;%\x7f', "_"))


def title_of(file_name: str) -> str:
    """A title made of a client's file name: without folders, ending, control characters or marks that turn writing."""
    name = clean_line(file_name.replace("/", "\\"))
    path = PureWindowsPath(name.rstrip("\\. "))
    stem = path.stem if path.suffix and len(path.suffix) <= 6 else path.name
    return shorten(stem.strip(), MAX_TITLE) or "Untitled"


def file_name_of(file_name: str, media_type: MediaType) -> str:
    """The name of a download, made of a client's file name; its ending is one of the kind that was found."""
    name = PureWindowsPath(clean_line(file_name.replace("/", "\\")).rstrip("\\. ")).name
    name = name.translate(_UNSAFE).strip(" .")
    endings = _ENDINGS[media_type]
    ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
    stem = name[: len(name) - len(ending)].strip(" .")
    return (shorten(stem, MAX_TITLE) or "Untitled") + (ending or endings[0])


def attachment(file_name: str) -> str:
    """A Content-Disposition that saves and never shows, for any name (RFC 6266): ASCII for old clients, UTF-8 for the rest."""
    plain = "".join(letter if " " <= letter < "\x7f" and letter not in '"\\%' else "_" for letter in file_name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='')}"
