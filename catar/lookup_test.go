package catar

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestLookup finds every node of casync's archives by the tables, and what Wrap
// makes of it is an archive.
func TestLookup(t *testing.T) {
	files, err := filepath.Glob("../testdata/catar/*.catar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		ra := bytes.NewReader(b)
		r := NewReader(bytes.NewReader(b))
		var open []Node
		for {
			e, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			n := Node{0, uint64(len(b))}
			if e.Depth > 0 {
				if n, err = Lookup(ra, open[e.Depth-1], e.Name); err != nil || n.Start != e.Offset {
					t.Fatalf("%s: %s: %v, want it at %d: %v", file, e.Name, n, e.Offset, err)
				}
			}
			open = append(open[:e.Depth], n)
			if _, err := Lookup(ra, n, "no such name"); !errors.Is(err, ErrNoNode) {
				t.Errorf("%s: a name that is not there below %s: %v", file, e.Name, err)
			}
			head, tail := Wrap(r.Flags(), "x", n.End-n.Start)
			whole := bytes.Join([][]byte{head, b[n.Start:n.End], tail}, nil)
			wrapped := NewReader(bytes.NewReader(whole))
			for err = nil; err == nil; {
				_, err = wrapped.Next()
			}
			if !errors.Is(err, io.EOF) && e.Depth < MaxDepth {
				t.Errorf("%s: %s wrapped: %v", file, e.Name, err)
			}
		}
	}
}

// FuzzLookup follows tables that may be anything.
func FuzzLookup(f *testing.F) {
	b, err := os.ReadFile("../testdata/catar/unix.catar")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, "x")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		n, err := Lookup(bytes.NewReader(b), Node{0, uint64(len(b))}, name)
		if err == nil && (n.Start > n.End || n.End > uint64(len(b))) {
			t.Errorf("%v in %d bytes", n, len(b))
		}
		if err != nil && !errors.Is(err, ErrNoNode) && !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
	})
}
