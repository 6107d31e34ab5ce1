package chunkserver_test

import (
	"bytes"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/folbricht/desync"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
)

// desync's client writes and reads, compressed and not.
func TestDesync(t *testing.T) {
	s, err := chunkserver.New(t.TempDir(), chunkserver.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const header = "Bearer secret"
	server := httptest.NewServer(chunkserver.NewMonitor(s, chunkserver.MonitorOptions{Token: func(s string) bool { return s == "secret" }}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := func(o desync.StoreOptions) *desync.RemoteHTTP {
		c, err := desync.NewRemoteHTTPStore(u, o)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	packed, plain := client(desync.StoreOptions{HTTPAuth: header}), client(desync.StoreOptions{HTTPAuth: header, Uncompressed: true})
	for i, writer := range []*desync.RemoteHTTP{packed, plain} {
		want := bytes.Repeat([]byte{'a', byte(i)}, 10_000)
		c := desync.NewChunk(want)
		if err := client(desync.StoreOptions{}).StoreChunk(c); err == nil {
			t.Error("a chunk is taken from anybody")
		}
		for range 2 {
			if err := writer.StoreChunk(c); err != nil {
				t.Errorf("store %d: %v", i, err)
			}
		}
		readers := []*desync.RemoteHTTP{packed, plain}
		if writer == plain {
			readers = readers[1:] // what is there uncompressed is served so
		}
		for _, r := range readers {
			got, err := r.GetChunk(c.ID())
			if err != nil {
				t.Errorf("get %d: %v", i, err)
				continue
			}
			if b, err := got.Data(); err != nil || !bytes.Equal(b, want) {
				t.Errorf("get %d: %d bytes, %v", i, len(b), err)
			}
		}
	}
}
