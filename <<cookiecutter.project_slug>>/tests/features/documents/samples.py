"""Files to upload, made in memory."""

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence

from fpdf import FPDF


def pdf(
    pages: Sequence[str],
    *,
    bookmarks: Sequence[str | None] = (),
    password: str | None = None,
    owner_password: str | None = None,
) -> bytes:
    """A real PDF with one text a page.

    Args:
        pages: text of each page.
        bookmarks: title of a bookmark to each page, or None.
        password: needed to open it.
        owner_password: needed to change it; anyone may read it.
    """
    document = FPDF()
    document.set_font("Helvetica", size=12)
    if password or owner_password:
        document.set_encryption(owner_password=owner_password or "owner", user_password=password)
    for number, text in enumerate(pages):
        document.add_page()
        if number < len(bookmarks) and (title := bookmarks[number]):
            document.start_section(title)
        if text:
            document.multi_cell(w=0, text=text)
    return bytes(document.output())


def raw_pdf(content: bytes, *, kids: int = 1, filters: str = "/FlateDecode") -> bytes:
    """A PDF written by hand, so that it can hold what no library writes.

    Args:
        content: the page's content stream, already encoded for `filters`.
        kids: how often the page tree names the one page.
        filters: value of the stream's /Filter.
    """
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (kids, b" ".join([b"3 0 R"] * kids)),
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d/Filter%s>>\nstream\n%s\nendstream" % (len(content), filters.encode(), content),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def deflated_zeros(megabytes: int) -> bytes:
    """A zlib stream of blanks, a thousandth of its unpacked size."""
    packer = zlib.compressobj(9)
    block = b" " * 1_000_000
    return b"".join([*(packer.compress(block) for _ in range(megabytes)), packer.flush()])


_WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def raw_docx(
    body: str, *, kind: str = f"{_WORD}.document.main+xml", doctype: str = "", more: Mapping[str, bytes] | None = None
) -> bytes:
    """A Word document written by hand, so that it can hold what no library writes.

    Args:
        body: XML within `w:body`; the prefixes w and mc are known.
        kind: what the archive says that it is.
        doctype: in front of the document's root.
        more: further entries.
    """
    entries = {
        "[Content_Types].xml": f"""<?xml version="1.0"?><Types xmlns="{_PACKAGE}/content-types">
            <Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
            <Override PartName="/word/document.xml" ContentType="{kind}"/>
            <Override PartName="/word/styles.xml" ContentType="{_WORD}.styles+xml"/></Types>""",
        "_rels/.rels": f"""<Relationships xmlns="{_PACKAGE}/relationships">
            <Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="word/document.xml"/></Relationships>""",
        "word/_rels/document.xml.rels": f"""<Relationships xmlns="{_PACKAGE}/relationships">
            <Relationship Id="r1" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>""",
        "word/styles.xml": """<w:styles xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">
            <w:style w:styleId="Titel"><w:name w:val="Title"/></w:style>
            <w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style>
            <w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style>
            <w:style w:styleId="Own"><w:name w:val="Own"/><w:pPr><w:outlineLvl w:val="2"/></w:pPr></w:style>
            </w:styles>""",
        "word/document.xml": f"""{doctype}<w:document
            xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"
            xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">
            <w:body>{body}</w:body></w:document>""",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
        for name, data in (more or {}).items():
            archive.writestr(name, data)
    return buffer.getvalue()


def paragraph(text: str, style: str = "") -> str:
    """XML of one paragraph of a Word document."""
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def combining_marks(count: int) -> bytes:
    """Text that Unicode's canonical ordering sorts in quadratic time."""
    return ("a" + "\u0315" * (count // 2) + "\u0300" * (count // 2)).encode()
