package toc

import (
	"bytes"
	"errors"
	"testing"
)

// A number in more bytes than it needs changes no node, and is refused where the
// canonical bytes are others.
func TestParseRefusesLongNumbers(t *testing.T) {
	root := Node{Mode: TypeDir | 0o755, Link: -1}
	x := root
	x.Name, x.Depth = "x", 1
	x.XAttrs = []XAttr{{Name: "user.a", Value: []byte("1")}, {Name: "user.b", Value: []byte("2")}}
	b, err := Marshal(&TOC{Nodes: []Node{root, x}})
	if err != nil {
		t.Fatal(err)
	}
	// The gap before the node with attributes, 1, in two bytes; the section is the last.
	at := bytes.Index(b, []byte("\x01\x02user.a\x00"))
	long := append(bytes.Clone(b[:at]), 0x81, 0)
	long = append(long, b[at+1:]...)
	long[at-1]++ // the length of the section
	_, err = Parse(long)
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("error %v, want %v", err, ErrInvalid)
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Offset != int64(at-1) {
		t.Errorf("offset %d, want %d", e.Offset, at-1)
	}
}
