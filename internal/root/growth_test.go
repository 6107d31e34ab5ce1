package root

import (
	"fmt"
	"path/filepath"
	"testing"
)

// BenchmarkImages shows that what a pull asks of a root, its trees and what is to be pruned,
// costs each image the same, up to a hundred. ns/image is that of one.
func BenchmarkImages(b *testing.B) {
	for _, images := range []int{6, 25, 100} {
		b.Run(fmt.Sprint(images), func(b *testing.B) {
			r, err := Open(filepath.Join(b.TempDir(), "root"), Options{})
			if err != nil {
				b.Fatal(err)
			}
			w, err := r.Lock("benchmark")
			if err != nil {
				b.Fatal(err)
			}
			defer w.Unlock()
			for i := range images {
				if err := tryCommit(w, fmt.Sprint("app", i), "1", fmt.Sprint("content", i)); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				trees, err := r.Trees()
				if err != nil || len(trees) != images {
					b.Fatalf("%d trees, %v", len(trees), err)
				}
				if _, err := r.Images(); err != nil {
					b.Fatal(err)
				}
				if _, err := w.Prune(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(images), "ns/image")
		})
	}
}
