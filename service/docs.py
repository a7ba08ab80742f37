"""The page `/docs`: the OpenAPI document for people, who may sit where no other host can be reached."""

import json
import re
from typing import Any

from markupsafe import Markup, escape

from lynceus.pages import page

BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
CODE, EMPHASIS = re.compile(r"`([^`]+)`"), re.compile(r"\*(\w[^*]*)\*")

PAGE = """{% extends "base" %}
{% block title %}{{ title }} {{ version }}: HTTP{% endblock %}
{% block style %}
code { font-size: .92em; overflow-wrap: anywhere; }
pre { overflow: auto; padding: .75rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .4rem; }
h2 code { font-size: 1em; }
td:first-child code { white-space: nowrap; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
td, th { text-align: left; vertical-align: top; }
td p { margin: 0; }
{% endblock %}
{% block content %}
{% macro table(title, rows) %}
{% if rows %}
<h3>{{ title }}</h3>
<div class="scroll"><table>
{% for name, kind, meaning in rows %}
<tr><td class="text"><code>{{ name }}</code></td><td class="text">{{ kind }}</td>
<td class="text">{{ meaning }}</td></tr>
{% endfor %}
</table></div>
{% endif %}
{% endmacro %}
<h1>{{ title }} {{ version }}</h1>
{{ description }}
<pre>curl -T frame.fits '{{ address }}detect?format=votable'</pre>
<p>For programs: <a href="openapi.json">openapi.json</a>.</p>
{% for one in operations %}
<h2 id="{{ one.id }}"><code>{{ one.methods }} {{ one.path }}</code></h2>
<p><b>{{ one.summary }}.</b></p>
{{ one.description }}
{{ table("Parameters of the query", one.parameters) }}
{{ table("Body: " ~ one.types, one.parts) }}
{{ table("Answers", one.answers) }}
{{ table("A detection, in JSON", one.columns) }}
{% endfor %}
{% endblock %}
"""


def docs_page(document: dict[str, Any], address: str) -> str:
    """Write an OpenAPI document as one HTML page that loads nothing from anywhere.

    Parameters
    ----------
    document : dict
        Of the application.
    address : str
        Of the server, as the reader knows it, with a slash at the end.
    """
    info = document["info"]
    return page(
        PAGE,
        title=info["title"],
        version=info["version"],
        description=_prose(info["description"]),
        address=address,
        operations=[_operation(path, methods) for path, methods in document["paths"].items()],
    )


def _operation(path: str, methods: dict[str, Any]) -> dict[str, Any]:
    """A path; the methods it has do the same."""
    one = next(iter(methods.values()))
    body = one.get("requestBody", {}).get("content", {})
    return {
        "id": one["operationId"],
        "path": path,
        "methods": " | ".join(method.upper() for method in methods),
        "summary": one["summary"],
        "description": _prose(one.get("description", "")),
        "parameters": [_row(given["name"], given["schema"], given) for given in one.get("parameters", [])],
        "types": ", ".join(body),
        "parts": _properties(body.get("multipart/form-data", {}).get("schema", {})),
        "answers": [
            (status, ", ".join(answer.get("content", {})), answer["description"])
            for status, answer in one["responses"].items()
        ],
        "columns": _properties(_detection(one["responses"])),
    }


def _row(name: str, schema: dict[str, Any], described: dict[str, Any]) -> tuple[str, str, Markup]:
    return name, _kind(schema), _inline(described.get("description", ""))


def _properties(schema: dict[str, Any]) -> list[tuple[str, str, Markup]]:
    required = schema.get("required", [])
    rows = [_row(name, given, given) for name, given in schema.get("properties", {}).items()]
    return [(name, f"{kind}, required" if name in required else kind, meaning) for name, kind, meaning in rows]


def _detection(responses: dict[str, Any]) -> dict[str, Any]:
    """The schema of a detection; empty where an answer has none."""
    schema = responses.get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    found: dict[str, Any] = schema.get("properties", {}).get("detections", {}).get("items", {})
    return found


def _kind(schema: dict[str, Any]) -> str:
    """Type, bounds, choices and default, in a few words."""
    schema = next((one for one in schema.get("anyOf", []) if one.get("type") != "null"), {}) | schema
    kinds = schema.get("type", "")
    said = [" or ".join(kinds) if isinstance(kinds, list) else kinds]
    said = [schema["contentMediaType"]] if "contentMediaType" in schema else said
    said += [words.format(schema[bound]) for bound, words in BOUNDS.items() if bound in schema]
    said += [" | ".join(map(str, schema["enum"]))] if "enum" in schema else []
    said += [f"default {json.dumps(schema['default'])}"] if schema.get("default") is not None else []
    return ", ".join(filter(None, said))


def _prose(text: str) -> Markup:
    """Paragraphs of Markdown, of which `code` and *emphasis* are known."""
    return Markup("\n").join(Markup("<p>{}</p>").format(_inline(part)) for part in text.split("\n\n") if part.strip())


def _inline(text: str) -> Markup:
    marked = CODE.sub(r"<code>\1</code>", str(escape(text)))
    return Markup(EMPHASIS.sub(r"<em>\1</em>", marked))
