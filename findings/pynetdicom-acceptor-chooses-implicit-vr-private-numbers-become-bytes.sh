#!/usr/bin/env bash
# A storage SCP of pynetdicom with its default transfer syntaxes agrees on Implicit VR Little Endian although the sender
# names Explicit VR Little Endian first and the SCP supports both: its own order decides, and Implicit VR leads it. The data
# set is then encoded anew on the way, without a warning. Of private elements that are in no dictionary the value
# representation is lost: numbers (FD, DS) and a sequence arrive as bytes (UN). At an SCP that puts Explicit VR first the
# same file arrives whole.
#
# pynetdicom 3.0.4, pydicom 3.0.2.
#
# What is right: PS3.8 9.3.3 lets the acceptor choose any transfer syntax that was proposed, so this is no breach. But
# PS3.5 7.1.3 and 6.2.2: in Implicit VR the representation is known from a dictionary alone, and unknown private
# elements are UN. A receiver that can keep them should.
#
# Whom it hurts: archives and pipelines behind a small SCP in Python: factors that scanners write as private elements
# (activity, scales of units, b-values) are there, but no longer numbers.
#
# Output seen:
#   pynetdicom 3.0.4
#   as written:        DS 0.000135, FD 0.5, SQ of 1
#   default SCP:       Implicit VR Little Endian: UN b'0.000135', UN b'\x00\x00\x00\x00\x00\x00\xe0?', UN of 8 bytes
#   explicit first:    Explicit VR Little Endian: DS 0.000135, FD 0.5, SQ of 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet pydicom==3.0.2 pynetdicom==3.0.4
venv/bin/python - <<'PY'
import sys

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, PositronEmissionTomographyImageStorage, generate_uid

import pynetdicom
from pynetdicom import AE, evt

PET, KEYS = PositronEmissionTomographyImageStorage, [(0x0077, 0x1001), (0x0077, 0x1002), (0x0077, 0x1003)]


def write(path):
    """Write the header of a PET with three private elements; pixels play no part."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = PET, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.PatientName, ds.PatientID, ds.Modality = "Phantom^One", "1", "PT"
    block = ds.private_block(0x0077, "PHANTOM 1.0", create=True)
    block.add_new(1, "DS", "0.000135")
    block.add_new(2, "FD", 0.5)
    block.add_new(3, "SQ", [Dataset()])
    ds.save_as(path, enforce_file_format=True)


def told(ds):
    """Return what the private elements of a data set are."""
    parts = []
    for key in KEYS:
        element = ds[key]
        value = f"of {len(element.value)}" if element.VR == "SQ" else repr(element.value)
        if element.VR == "UN" and key == KEYS[2]:
            value = f"of {len(element.value)} bytes"
        parts.append(f"{element.VR} {value.strip(chr(39))}" if element.VR != "UN" else f"UN {value}")
    return ", ".join(parts)


def sent(path, syntaxes=None):
    """Send a file over the loopback to an SCP; return the syntax that was agreed on, and what arrived."""
    arrived = []

    def keep(event):
        arrived.append((event.context.transfer_syntax.name, told(event.dataset)))
        return 0x0000

    scp = AE()
    scp.add_supported_context(PET, syntaxes) if syntaxes else scp.add_supported_context(PET)
    server = scp.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, keep)])
    scu = AE()
    scu.add_requested_context(PET, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    association = scu.associate("127.0.0.1", server.server_address[1])
    status = association.send_c_store(pydicom.dcmread(path)).Status
    association.release()
    server.shutdown()
    if status != 0x0000:
        sys.exit(f"the store ended with {status:#06x}")
    return arrived[0]


print("pynetdicom", pynetdicom.__version__)
write("pet.dcm")
written = told(pydicom.dcmread("pet.dcm"))
default, explicit = sent("pet.dcm"), sent("pet.dcm", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
print("as written:       ", written)
print("default SCP:      ", ": ".join(default))
print("explicit first:   ", ": ".join(explicit))
if default[0] != "Implicit VR Little Endian" or default[1].count("UN") != 3:
    sys.exit("pynetdicom behaves otherwise now")
if explicit != ("Explicit VR Little Endian", written):
    sys.exit("pynetdicom behaves otherwise now: an SCP that puts Explicit VR first does not get it")
PY
