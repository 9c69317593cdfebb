"""The imitated Kubernetes API server, part by part; `sim.cluster.apiserver` puts them together.

    notation, kinds, *_kinds   the built-in kinds: schemas in a compact notation, printers, rules
    schema, validation         structural schemas: parsing, defaults, pruning, validation
    typed, fieldset, fields    values by schema: merge and compare; sets of fields; who owns them (server-side apply)
    patch                      merge patch, JSON patch, strategic merge patch
    store                      objects, resource versions, history, watchers
    writes, deletes, gc        what a create, an update, a delete does; what follows from it
    crds                       kinds that are made over the API
    discovery, openapi, tables, selectors, jsonpath
    http, watch, faults        the wire

Only `http`, `watch` and `faults` wait for anything; the others are functions of objects, a time and a source of names.
"""
