"""Objects in the form that the client asked for: themselves, a Table, their metadata alone; JSON or YAML."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiohttp import web

from sim.cluster.apimachinery import requests, tables
from sim.cluster.apimachinery.problems import Json
from sim.cluster.apimachinery.reads import Page
from sim.cluster.apimachinery.requests import Form, encode
from sim.cluster.apimachinery.store import Record
from sim.cluster.apimachinery.targets import Target, at_version
from sim.cluster.apimachinery.watch import INITIAL_EVENTS_END


@dataclass(frozen=True, slots=True)
class Answers:
    """Makes the answers about one target."""

    target: Target
    form: Form
    now: Callable[[], datetime]

    def json(self, value: Json, status: int = 200, warnings: Sequence[str] = ()) -> web.Response:
        """An answer with a value that is no object of the kind."""
        return self._response(encode(value), value, status, warnings)

    def _response(self, body: bytes, value: Any, status: int, warnings: Sequence[str]) -> web.Response:
        response = web.Response(status=status, body=body, content_type=requests.JSON)
        if self.form.yaml:
            import yaml  # nearly nobody asks for it

            response = web.Response(status=status, body=yaml.safe_dump(value).encode(), content_type=requests.YAML)
        for text in warnings:
            quoted = text.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.add("Warning", f'299 - "{quoted}"')
        return response

    def bytes_of(self, record: Record, *, item: bool = False) -> bytes:
        """A record as JSON at the target's version; items of a list of a built-in kind do not say what they are."""
        bare = item and not self.target.kind.custom
        key = self.target.api_version + ("#" if bare else "")
        found = record.encoded.get(key)
        if found is None:
            obj = at_version(record.obj, self.target.api_version)
            if bare:
                obj = {name: value for name, value in obj.items() if name not in ("apiVersion", "kind")}
            found = record.encoded[key] = encode(obj)
        return found

    def _shaped(self, record: Record, include: str, *, head: bool = True) -> Json:
        obj = at_version(record.obj, self.target.api_version)
        if self.form.shape == "Table":
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return tables.table(self.target.version, [obj], metadata, include, self.now(), head=head)
        if self.form.shape == "PartialObjectMetadata":
            return tables.partial(obj)
        return obj

    def one(
        self, record: Record, status: int, *, include: str = "Metadata", warnings: Sequence[str] = ()
    ) -> web.Response:
        """An answer with one object."""
        if not self.form.shape and not self.form.yaml:
            return self._response(self.bytes_of(record), None, status, warnings)
        value = self._shaped(record, include)
        return self._response(encode(value), value, status, warnings)

    def many(self, page: Page, *, include: str) -> web.Response:
        """An answer with a list."""
        kind = self.target.kind
        if not self.form.shape and not self.form.yaml:
            head = {"kind": kind.list_kind, "apiVersion": self.target.api_version, "metadata": page.metadata}
            items = b",".join(self.bytes_of(record, item=True) for record in page.records)
            return self._response(encode(head)[:-1] + b',"items":[' + items + b"]}", None, 200, ())
        objects = [at_version(record.obj, self.target.api_version) for record in page.records]
        value: Json
        if self.form.shape == "Table":
            value = tables.table(self.target.version, objects, page.metadata, include, self.now())
        elif self.form.shape == "PartialObjectMetadata":
            value = {
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": page.metadata,
                "items": [tables.partial(obj) for obj in objects],
            }
        else:
            head = {"kind": kind.list_kind, "apiVersion": self.target.api_version, "metadata": page.metadata}
            value = {**head, "items": objects}
        return self._response(encode(value), value, 200, ())

    def watched(self, include: str) -> Callable[[Record], bytes]:
        """What makes the bytes of each record of a watch; a Table tells its columns once."""
        if not self.form.shape:
            return self.bytes_of
        told = False

        def shaped(record: Record) -> bytes:
            nonlocal told
            head, told = not told, True
            return encode(self._shaped(record, include, head=head))

        return shaped

    def bookmark(self, version: str, initial_end: bool) -> Json:
        """The object of a BOOKMARK event: nothing but its version, and that the initial events end here."""
        metadata: Json = {"resourceVersion": version}
        if initial_end:
            metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
        if self.form.shape == "Table":
            row = {
                "cells": [],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata},
            }
            return {
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": version},
                "columnDefinitions": None, "rows": [row],
            }  # fmt: skip
        return {"kind": self.target.kind.kind, "apiVersion": self.target.api_version, "metadata": metadata}
