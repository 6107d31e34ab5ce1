package makecache

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// FuzzCache reads what no make has written; whatever it takes, it writes again.
func FuzzCache(f *testing.F) {
	header := []byte("header\n")
	name := filepath.Join(f.TempDir(), FileName)
	some := map[Fingerprint]Chunk{
		{1}: {Size: 5, All: Fingerprint{2}, ID: chunk.ID{3}},
		{4}: {Size: chunk.MaxSize, Last: true, All: Fingerprint{5}, ID: chunk.ID{6}},
	}
	for _, m := range []map[Fingerprint]Chunk{nil, some} {
		if err := Write(name, header, m); err != nil {
			f.Fatal(err)
		}
		b, err := Read(name, header)
		if err != nil || !maps.Equal(b, m) {
			f.Fatalf("%v, %v", b, err)
		}
	}
	f.Add([]byte("header\n"))
	f.Add(append([]byte("header\n"), make([]byte, 200)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parse(b, header)
		if len(m) > len(b)/recordSize {
			t.Errorf("%d entries in %d bytes", len(m), len(b))
		}
		if err := Write(name, header, m); err != nil {
			t.Fatal(err)
		}
		if again, err := Read(name, header); err != nil || !maps.Equal(again, m) {
			t.Errorf("%v, %v", again, err)
		}
	})
}
