package chunkserver_test

import (
	"bytes"
	"context"
	"errors"
	"path"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

func noIndex(context.Context, string, int64) ([]byte, error) { return nil, store.ErrNotFound }

// A store gives chunks under the names of both forms, whichever it has, and nothing else.
func TestChunks(t *testing.T) {
	var mem storetest.Memory
	up := chunkserver.Chunks(&mem, "a.castr", noIndex)
	for i, form := range []store.Form{store.Compressed, store.Raw} {
		plain := bytes.Repeat([]byte{'a', byte(i)}, 5000)
		id := chunk.SHA512_256.Sum(plain)
		p := store.Packed{Form: store.Raw, Data: plain}
		if form == store.Compressed {
			p = store.NewPacker(store.Gzip, 10_000).Pack(nil, plain)
		}
		if err := mem.Put(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
		name := id.String()[:4] + "/" + id.String()
		if got, err := up.ReadFile(t.Context(), "a.castr/"+name, 20_000); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d: uncompressed: %d bytes, %v", i, len(got), err)
		}
		got, err := up.ReadFile(t.Context(), name+".cacnk", 20_000)
		if err != nil {
			t.Errorf("%d: compressed: %v", i, err)
		} else if out, err := store.Check(nil, store.Packed{Data: got}, id); err != nil || !bytes.Equal(out, plain) {
			t.Errorf("%d: compressed: %d bytes, %v", i, len(out), err)
		}
		for _, other := range []string{"default.castr/" + name, path.Base(name), strings.ToUpper(name), "0000/" + id.String(), "a.castr/a.castr/" + name, "1.caidx", "app/index.json", ""} {
			if _, err := up.ReadFile(t.Context(), other, 20_000); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("%q: %v", other, err)
			}
		}
	}
}

// What a store lacks is asked for once by those who ask for both forms, and again later.
func TestChunksAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		up := chunkserver.Chunks(&storetest.Faulty{Store: &storetest.Memory{}, GetFault: func(int64) error {
			asked++
			return nil
		}}, "default.castr", noIndex)
		id := chunk.SHA512_256.Sum([]byte("x"))
		name := id.String()[:4] + "/" + id.String()
		for want := range 2 {
			for _, suffix := range []string{".cacnk", ""} {
				if _, err := up.ReadFile(t.Context(), name+suffix, 100); !errors.Is(err, store.ErrNotFound) {
					t.Error(err)
				}
			}
			if asked != want+1 {
				t.Errorf("asked %d times, want %d", asked, want+1)
			}
			time.Sleep(time.Minute)
		}
	})
}
