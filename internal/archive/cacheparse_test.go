package archive

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// FuzzCache reads what no make has written; whatever it takes, it writes again.
func FuzzCache(f *testing.F) {
	header := []byte("header\n")
	name := filepath.Join(f.TempDir(), cacheFile)
	some := map[fingerprint]cached{
		{1}: {size: 5, all: fingerprint{2}, id: chunk.ID{3}},
		{4}: {size: chunk.MaxSize, last: true, all: fingerprint{5}, id: chunk.ID{6}},
	}
	for _, m := range []map[fingerprint]cached{nil, some} {
		if err := writeCache(name, header, m); err != nil {
			f.Fatal(err)
		}
		b, err := readCache(name, header)
		if err != nil || !maps.Equal(b, m) {
			f.Fatalf("%v, %v", b, err)
		}
	}
	f.Add([]byte("header\n"))
	f.Add(append([]byte("header\n"), make([]byte, 200)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := parseCache(b, header)
		if len(m) > len(b)/cacheRecord {
			t.Errorf("%d entries in %d bytes", len(m), len(b))
		}
		if err := writeCache(name, header, m); err != nil {
			t.Fatal(err)
		}
		if again, err := readCache(name, header); err != nil || !maps.Equal(again, m) {
			t.Errorf("%v, %v", again, err)
		}
	})
}
