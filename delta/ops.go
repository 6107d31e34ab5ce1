package delta

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The streams of a delta: docs/format/delta.md, section 4.
const (
	streamAdds    = iota // uvarint: bytes of each instruction taken from the base
	streamInserts        // uvarint: bytes of each that are new
	streamSeeks          // varint: where in the base each begins, against where the last one ended
	streamDiffs          // differences, zeros as runs
	streamBytes          // new bytes
	streams
)

// script is the instructions of one content, as they go into the streams.
type script [streams][]byte

// build appends to s the instructions that make b out of old. The index of old
// takes at most memory bytes.
func (s *script) build(old, b []byte, memory int64) { s.extend(old, b, 0, 0, memory) }

// extend is build for a part of a content, where old begins at origin in its base
// and the last copy of the part before ended at at. It returns where the last one of this
// part ends.
func (s *script) extend(old, b []byte, origin, at, memory int64) int64 {
	end := 0
	zeros := uint64(0) // of the run that is open
	for o := range instructions(old, b, memory) {
		s[streamAdds] = binary.AppendUvarint(s[streamAdds], uint64(o.add))
		s[streamInserts] = binary.AppendUvarint(s[streamInserts], uint64(o.insert))
		if o.add > 0 {
			s[streamSeeks] = binary.AppendVarint(s[streamSeeks], origin+o.from-at)
			at = origin + o.from + int64(o.add)
		}
		for i := range o.add {
			d := b[end+i] - old[o.from+int64(i)]
			if d == 0 {
				zeros++
				continue
			}
			s.run(&zeros)
			s[streamDiffs] = append(s[streamDiffs], d)
		}
		end += o.add
		s[streamBytes] = append(s[streamBytes], b[end:end+o.insert]...)
		end += o.insert
	}
	s.run(&zeros)
	return at
}

// run closes a run of equal bytes.
func (s *script) run(zeros *uint64) {
	if *zeros > 0 {
		s[streamDiffs] = binary.AppendUvarint(append(s[streamDiffs], 0), *zeros-1)
		*zeros = 0
	}
}

// source is what instructions are read from: one reader a stream.
type source interface {
	io.Reader
	io.ByteReader
}

// player carries out instructions.
type player struct {
	in  *[streams]source
	buf []byte
}

// play writes the next content, of size bytes, to w, whose base is old. Only
// what reads old and w fails with is no error of the delta: it is reported
// apart, and the instructions are read to their end all the same. Play makes no
// more than size bytes, whatever the streams say.
func (p *player) play(size int64, old io.ReaderAt, w io.Writer) (soft, err error) {
	out := playing{old: old, w: w}
	for size > 0 {
		n, err := p.instruction(size, &out)
		if err != nil {
			return out.soft, err
		}
		size -= n
	}
	if out.zeros > 0 {
		return out.soft, malformed("a run of equal bytes goes beyond the content")
	}
	return out.soft, nil
}

// playing is a content that is being made.
type playing struct {
	old   io.ReaderAt
	w     io.Writer
	at    int64  // in old: where the last copy ended
	zeros uint64 // differences that are left of a run
	soft  error  // the first one of old and w; they are not used after it
}

// read fills b with the base's next bytes, if it can.
func (o *playing) read(b []byte) {
	if o.soft == nil {
		if _, err := o.old.ReadAt(b, o.at); err != nil {
			o.soft = fmt.Errorf("base: %w", err)
		}
	}
	o.at += int64(len(b))
}

// write writes b, if it can.
func (o *playing) write(b []byte) {
	if o.soft == nil {
		_, o.soft = o.w.Write(b)
	}
}

// instruction carries out one instruction, which makes at most limit bytes, and
// returns how many.
func (p *player) instruction(limit int64, out *playing) (n int64, err error) {
	add, err := p.uvarint(streamAdds, limit)
	if err != nil {
		return 0, err
	}
	insert, err := p.uvarint(streamInserts, limit-add)
	if err != nil {
		return 0, err
	}
	n = add + insert
	if n == 0 {
		return 0, malformed("an empty instruction")
	}
	if add > 0 {
		seek, err := binary.ReadVarint(p.in[streamSeeks])
		if err != nil {
			return 0, unexpected(err)
		}
		out.at += seek
	}
	for add > 0 {
		b := p.buf[:min(add, int64(len(p.buf)))]
		out.read(b)
		if err := p.differences(b, &out.zeros); err != nil {
			return 0, err
		}
		out.write(b)
		add -= int64(len(b))
	}
	for insert > 0 {
		b := p.buf[:min(insert, int64(len(p.buf)))]
		if _, err := io.ReadFull(p.in[streamBytes], b); err != nil {
			return 0, unexpected(err)
		}
		out.write(b)
		insert -= int64(len(b))
	}
	return n, nil
}

// differences adds the next differences to b.
func (p *player) differences(b []byte, zeros *uint64) error {
	for i := 0; i < len(b); {
		if *zeros > 0 {
			n := min(*zeros, uint64(len(b)-i))
			*zeros -= n
			i += int(n)
			continue
		}
		d, err := p.in[streamDiffs].ReadByte()
		if err != nil {
			return unexpected(err)
		}
		if d != 0 {
			b[i] += d
			i++
			continue
		}
		n, err := binary.ReadUvarint(p.in[streamDiffs])
		if err != nil {
			return unexpected(err)
		}
		*zeros = n + 1
		if *zeros == 0 {
			return malformed("a run of equal bytes without end")
		}
	}
	return nil
}

// uvarint reads a number of at most limit.
func (p *player) uvarint(stream int, limit int64) (int64, error) {
	n, err := binary.ReadUvarint(p.in[stream])
	if err != nil {
		return 0, unexpected(err)
	}
	if n > uint64(limit) {
		return 0, malformed("an instruction goes beyond the content")
	}
	return int64(n), nil
}

// unexpected turns the end of a stream into an error.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return malformed("%w", err)
}
