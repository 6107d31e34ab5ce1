package ocidest

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestSending follows a layer on its way to a real registry, which has it the second
// time.
func TestSending(t *testing.T) {
	host := testutil.StartRegistry(t, testutil.RegistryOptions{})
	var sent, total int64
	opts := Options{
		TempDir: t.TempDir(), Registry: registry.Options{PlainHTTP: true},
		Sending: func(n, of int64) { sent, total = sent+n, of },
	}
	w, err := Write(t.Context(), "docker", "//"+host+"/app:1", "", image(content), opts)
	if err != nil || total != w.LayerSize || sent != total || w.Sent <= total {
		t.Errorf("%d bytes of %d, %+v, %v", sent, total, w, err)
	}
	first := w.Sent
	sent = 0
	w, err = Write(t.Context(), "docker", "//"+host+"/app:2", "", image(content), opts)
	if err != nil || sent != 0 || w.Sent == 0 || w.Sent > first-total {
		t.Errorf("%d bytes, %+v, %v", sent, w, err)
	}
	// What is read twice is sent once.
	s := &sending{ReaderAt: strings.NewReader(strings.Repeat("x", 1000)), total: 1000, note: opts.Sending}
	for range 2 {
		if _, err := io.Copy(io.Discard, io.NewSectionReader(s, 0, 1000)); err != nil {
			t.Error(err)
		}
	}
	if sent != 1000 || total != 1000 {
		t.Errorf("%d bytes of %d", sent, total)
	}
	if _, err := (&sending{ReaderAt: bytes.NewReader([]byte("x")), total: 1}).ReadAt(make([]byte, 1), 0); err != nil {
		t.Error(err)
	}
}
