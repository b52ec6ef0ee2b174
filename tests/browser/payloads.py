"""Texts that would do something, were they ever taken for more than text. Each tries to set window.stolen or to fetch /stolen."""

_HANDLERS = (
    "onerror", "onload", "onclick", "onfocus", "onmouseover", "ontoggle", "onanimationstart", "onpointerenter",
    "onwheel", "onbeforetoggle", "onpageshow", "onbegin", "OnErRoR", "onscrollend",
)  # fmt: skip
_TAGS = (
    "img src=x", "svg", "body", "details open", "input autofocus", "video src=x", "iframe", "marquee", "audio src=x",
    "select autofocus", "x-y tabindex=0",
)  # fmt: skip

PAYLOADS = (
    "<script>window.stolen=1</script>",
    "\"><script>window.stolen=1</script>",
    "'-alert(1)-'",
    "</script><script>window.stolen=1</script>",
    "</title><script>window.stolen=1</script>",
    "</textarea><img src=x onerror=window.stolen=1>",
    "<svg><script>window.stolen=1</script></svg>",
    "<svg/onload=window.stolen=1>",
    "<svg><animate onbegin=window.stolen=1 attributeName=x dur=1s>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.stolen=1>",
    "<a href=javascript:window.stolen=1>click</a>",
    "javascript:window.stolen=1",
    "<iframe srcdoc='<script>parent.stolen=1</script>'></iframe>",
    "<form action=/stolen><button>go</button></form>",
    "<base href=/stolen/>",
    "<link rel=stylesheet href=/stolen.css>",
    "<meta http-equiv=refresh content='0;url=/stolen'>",
    "<object data=/stolen></object>",
    "<embed src=/stolen>",
    "<div hx-get=/stolen hx-trigger=load></div>",
    "<div data-hx-get=/stolen data-hx-trigger=load></div>",
    "<div hx-on:load='window.stolen=1' hx-on::load='window.stolen=1'></div>",
    "<div hx-get=/stolen hx-trigger='every 50ms'></div>",
    "<template><script>window.stolen=1</script></template>",
    "<div id=run-data>{}</div>",
    "<div data-confirm=x data-copy=x id=confirm></div>",
    "<b style=position:fixed;inset:0>cover</b>",
    "<style>*{display:none}</style>",
    "{{7*7}}", "{% raw %}", "${7*7}", "#{7*7}", "<%= 7*7 %>", "{{constructor.constructor('window.stolen=1')()}}",
    "<!--", "-->", "<![CDATA[", "]]>", "<?xml version='1.0'?>", "&lt;script&gt;window.stolen=1&lt;/script&gt;",
    "&#60;img src=x&#62;",
    "\u202eevil\u202c", "\u200b\u200d\ufeff", "a\u0301\u0327" * 20, "😀", "line\r\nbreak\ttab",
    "</li></ol></div></main>",
    "data: x\n\nevent: state\ndata: <div id=status data-state=failed></div>", "\nid: 99999\n", "<" * 50, "\"'`><\\/",
    *(f"<{tag} {handler}=window.stolen=1>" for tag in _TAGS for handler in _HANDLERS),
)  # fmt: skip
