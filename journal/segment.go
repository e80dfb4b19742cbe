package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A receive log is a directory of segments. A segment file is a header and
// records; a record is a header and the frames of one flush, as they came from
// the stream (codec.go). All numbers are little-endian.
//
//	segment header                           record header
//	 0  4  magic "skrl"                       0  8  serial of its segment
//	 4  1  version (1)                        8  4  length of the frames
//	 5  3  0                                 12  4  crc32c of bytes 0–11
//	 8  8  serial, counts up from 1          16     frames
//	16  8  flushed: operations up to it
//	       need not be applied again
//	24  4  crc32c of bytes 0–23
//	28     records
//
// Files are reused, so behind the last record may stand what an earlier segment
// left: its serial is smaller. The serial is also the name of the file.
const (
	segmentMagic   = "skrl"
	segmentVersion = 1
	segmentHeader  = 28
	recordHeader   = 16
)

// ErrLog is what errors about the content of a receive log wrap.
var ErrLog = errors.New("bad receive log")

func appendSegmentHeader(b []byte, serial uint64, flushed Seq) []byte {
	at := len(b)
	b = append(b, segmentMagic...)
	b = append(b, segmentVersion, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, serial)
	b = binary.LittleEndian.AppendUint64(b, uint64(flushed))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func appendRecordHeader(b []byte, serial uint64, length int) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint64(b, serial)
	b = binary.LittleEndian.AppendUint32(b, uint32(length))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// parseSegmentHeader reads the start of a segment file.
func parseSegmentHeader(b []byte) (serial uint64, flushed Seq, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < segmentHeader:
		err = fmt.Errorf("%w: %d bytes, expected a header of %d", ErrLog, len(b), segmentHeader)
	case string(b[:4]) != segmentMagic:
		err = fmt.Errorf("%w: magic is %q, expected %q", ErrLog, b[:4], segmentMagic)
	case b[4] != segmentVersion:
		err = fmt.Errorf("%w: version is %d, expected %d: start the version of skfs that wrote it, and stop the module cleanly", ErrLog, b[4], segmentVersion)
	case le.Uint32(b[24:]) != crc32.Checksum(b[:24], castagnoli):
		err = fmt.Errorf("%w: the checksum of the header is wrong", ErrLog)
	default:
		return le.Uint64(b[8:]), Seq(le.Uint64(b[16:])), nil
	}
	return 0, 0, err
}

// parseRecords calls each with the operations behind the header of a segment, up
// to the first frame that is not whole: there the writer was interrupted. It
// returns an error only if each does. op and its Data are valid during the call.
func parseRecords(b []byte, serial uint64, each func(epoch Epoch, op *Op) error) error {
	le := binary.LittleEndian
	for at := segmentHeader; len(b)-at >= recordHeader; {
		r := b[at : at+recordHeader]
		if le.Uint64(r) != serial || le.Uint32(r[12:]) != crc32.Checksum(r[:12], castagnoli) {
			return nil
		}
		at += recordHeader
		end := at + int(le.Uint32(r[8:]))
		for at < end {
			var op Op
			if len(b)-at < headerSize {
				return nil
			}
			h, err := parseHeader(b[at:])
			if err != nil || h.size() > min(end, len(b))-at || decodeOp(&h, b[at:at+h.size()], &op) != nil {
				return nil
			}
			if err := each(h.epoch, &op); err != nil {
				return err
			}
			at += h.size()
		}
	}
	return nil
}
