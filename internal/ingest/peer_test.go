package ingest_test

import (
	"bytes"
	"crypto/sha512"
	"io"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"

	"github.com/folbricht/desync"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
)

// BenchmarkPeer compares the boundary scan, and the scan with the hashing of the
// chunks, with desync's. Both work on one processor, and what counts is processor
// time: a busy machine distorts the clock.
func BenchmarkPeer(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	data := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{7}).Read(data)
	p := chunk.DefaultParams()
	for _, bb := range []struct {
		name string
		f    func() (chunks int, err error)
	}{
		{"scan/ours", func() (n int, err error) {
			c, err := chunk.NewCutter(p)
			for rest := data; len(rest) > 0; n++ {
				size, ok := c.Next(rest)
				if !ok {
					size = len(rest)
				}
				rest = rest[size:]
			}
			return n, err
		}},
		{"scan/desync", func() (int, error) { return peer(data, p, func([]byte) {}) }},
		{"hash/ours", func() (int, error) {
			r, err := ingest.Stream(b.Context(), bytes.NewReader(data), ingest.Options{Params: p, FeatureFlags: blobFlags, Jobs: 1})
			if err != nil {
				return 0, err
			}
			return len(r.Index.Chunks), nil
		}},
		{"hash/desync", func() (int, error) { return peer(data, p, func(b []byte) { sha512.Sum512_256(b) }) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			start := cpuTime(b)
			var chunks int
			for b.Loop() {
				var err error
				if chunks, err = bb.f(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(len(data))/1e6/(cpuTime(b)-start), "MB/cpu-s")
			b.ReportMetric(float64(chunks), "chunks")
		})
	}
}

// peer cuts data with desync's chunker and calls use with each chunk.
func peer(data []byte, p chunk.Params, use func([]byte)) (n int, err error) {
	c, err := desync.NewChunker(io.NopCloser(bytes.NewReader(data)), p.Min, p.Avg, p.Max)
	for err == nil {
		var b []byte
		if _, b, err = c.Next(); len(b) == 0 {
			return n, err
		}
		use(b)
		n++
	}
	return n, err
}

// cpuTime is what this process has used, in seconds.
func cpuTime(b *testing.B) float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
