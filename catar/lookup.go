package catar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// ErrNoNode means that an archive has no node of a name.
var ErrNoNode = errors.New("catar: no such node")

// Node is where a node lies in an archive: from its ENTRY record to its end,
// in bytes from the start of the archive.
type Node struct {
	Start, End uint64
}

// Lookup finds the child of a directory by the directory's GOODBYE table:
// docs/format/catar.md section 4. It reads some hundred bytes for each level of
// the table. The error matches ErrNoNode if there is no such child, or dir is
// no directory, and ErrMalformed if the table is wrong as far as it was read.
func Lookup(r io.ReaderAt, dir Node, name string) (Node, error) {
	if dir.End > math.MaxInt64 || dir.Start > dir.End {
		return Node{}, &Error{Offset: dir.Start, Record: "ENTRY", Reason: "beyond the end"}
	}
	t := table{r: r, dir: dir, name: name, hash: nameHash([]byte(name))}
	if err := t.open(); err != nil {
		return Node{}, err
	}
	return t.find(0)
}

// table is the GOODBYE table of one directory.
type table struct {
	r     io.ReaderAt
	dir   Node
	name  string
	hash  uint64
	start uint64 // of the record
	items uint64
}

// open finds the table from the end of the directory.
func (t *table) open() error {
	e, err := t.read(t.dir.Start, entrySize)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(e) != entrySize || binary.LittleEndian.Uint64(e[8:]) != recEntry {
		return &Error{Offset: t.dir.Start, Record: "ENTRY", Reason: "is not here"}
	}
	if binary.LittleEndian.Uint64(e[24:])&ModeType != ModeDir {
		return ErrNoNode
	}
	at := t.dir.End - goodbyeItemSize
	tail, err := t.read(at, goodbyeItemSize)
	if err != nil {
		return err
	}
	back, size := binary.LittleEndian.Uint64(tail), binary.LittleEndian.Uint64(tail[8:])
	t.start = t.dir.End - size
	const least = headerSize + goodbyeItemSize
	if binary.LittleEndian.Uint64(tail[16:]) != goodbyeTail || size < least || (size-least)%goodbyeItemSize != 0 ||
		size > t.dir.End-t.dir.Start-entrySize || back != t.start-t.dir.Start {
		return &Error{Offset: at, Record: "GOODBYE", Reason: "does not describe its directory"}
	}
	t.items = (size - least) / goodbyeItemSize
	return nil
}

// find searches item i of the tree and those below it. Only names whose hashes
// collide make it look at more than one branch.
func (t *table) find(i uint64) (Node, error) {
	for i < t.items {
		at := t.start + headerSize + goodbyeItemSize*i
		b, err := t.read(at, goodbyeItemSize)
		if err != nil {
			return Node{}, err
		}
		hash := binary.LittleEndian.Uint64(b[16:])
		if hash == t.hash {
			n, err := t.child(at, binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]))
			if !errors.Is(err, ErrNoNode) {
				return n, err
			}
			if n, err := t.find(2*i + 1); !errors.Is(err, ErrNoNode) {
				return n, err
			}
		}
		i = 2*i + 1
		if hash <= t.hash {
			i++
		}
	}
	return Node{}, ErrNoNode
}

// child returns the node that an item points to, if it has the name.
func (t *table) child(item, back, size uint64) (Node, error) {
	bad := &Error{Offset: item, Record: "GOODBYE", Reason: "does not describe its directory"}
	space := t.start - t.dir.Start
	if back > space || size > back || size < headerSize+2 {
		return Node{}, bad
	}
	start := t.start - back
	head, err := t.read(start, headerSize)
	if err != nil {
		return Node{}, err
	}
	length := binary.LittleEndian.Uint64(head)
	if binary.LittleEndian.Uint64(head[8:]) != recFilename || length < headerSize+2 || length > headerSize+MaxName+1 || length > size {
		return Node{}, bad
	}
	name, err := t.read(start+headerSize, int(length-headerSize))
	if err != nil {
		return Node{}, err
	}
	if string(name) != t.name+"\x00" {
		return Node{}, ErrNoNode
	}
	return Node{Start: start + length, End: start + size}, nil
}

// read returns n bytes of the directory.
func (t *table) read(at uint64, n int) ([]byte, error) {
	if at < t.dir.Start || at > t.dir.End || uint64(n) > t.dir.End-at {
		return nil, &Error{Offset: at, Record: "next", Reason: "the archive ends early", Err: io.ErrUnexpectedEOF}
	}
	b := make([]byte, n)
	if _, err := t.r.ReadAt(b, int64(at)); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("catar: read at offset %d: %w", at, err)
	} else if err != nil {
		return nil, &Error{Offset: at, Record: "next", Reason: "the archive ends early", Err: io.ErrUnexpectedEOF}
	}
	return b, nil
}

// Wrap returns what makes an archive with a single node below its root of the
// size bytes of a node of another archive, which has the feature flags: what
// comes before them and what comes after.
func Wrap(flags Flags, name string, size uint64) (head, tail []byte) {
	root := &Entry{Mode: ModeDir | 0o777}
	flags.Mask(root)
	head = appendEntry(nil, flags, root)
	start := uint64(len(head))
	head = appendString(head, recFilename, name)
	end := uint64(len(head)) + size
	tail = appendGoodbye(nil, []child{{hash: nameHash([]byte(name)), start: start, size: end - start}}, end, 0)
	return head, tail
}
