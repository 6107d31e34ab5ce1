package store_test

import (
	"bytes"
	"compress/gzip"
	"math/rand/v2"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// BenchmarkPack shows that what does not compress is found out early: it passes at
// several times the speed of text.
func BenchmarkPack(b *testing.B) {
	const size = 64 << 10
	random := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{1}).Read(random)
	var text bytes.Buffer
	for words := rand.New(rand.NewPCG(1, 2)); text.Len() < len(random); {
		text.WriteString([]string{"the ", "of ", "chunk ", "store ", "image ", "layer ", "sync ", "\n"}[words.IntN(8)])
	}
	var packed bytes.Buffer
	for w := gzip.NewWriter(&packed); packed.Len() < len(random); {
		_, err := w.Write(text.Bytes())
		if err != nil {
			b.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{"random": random, "text": text.Bytes()[:4<<20], "gzip": packed.Bytes()[:4<<20]} {
		b.Run(name, func(b *testing.B) {
			p := store.NewPacker(store.Zstd, 4*size)
			var out store.Packed
			b.SetBytes(4 << 20)
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n = 0
				for rest := data; len(rest) > 0; rest = rest[size:] {
					out = p.Pack(out.Data, rest[:size])
					n += len(out.Data)
				}
			}
			b.ReportMetric(100*float64(n)/(4<<20), "%packed")
		})
	}
}
