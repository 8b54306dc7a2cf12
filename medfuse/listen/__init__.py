"""A service between a PACS and the bundles: it receives studies, fuses each when it is whole, and sends the results.

Four parts, which know of each other by the folders of a queue alone: `receive` with `intake` (DICOM in, within limits),
`work` (a bundle, loaded once, in a process of its own), `outbox` with `send` (DICOM out) and `queue` (what lies on the
disk). Only `receive`, `intake` and `send` need pynetdicom.
"""
