package archive_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
)

// smallFiles writes an archive of n files of 300 bytes, a hundred to a directory.
func smallFiles(b *testing.B, n int) string {
	b.Helper()
	name := filepath.Join(b.TempDir(), "x.catar")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	flags, err := catar.ParseNames([]string{"unix"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	w := catar.NewWriter(f, flags|catar.SHA512_256)
	put := func(e catar.Entry, contents []byte) {
		if err == nil {
			err = w.WriteEntry(&e)
		}
		if err == nil {
			_, err = w.Write(contents)
		}
	}
	put(catar.Entry{Mode: catar.ModeDir | 0o755}, nil)
	for i := range n {
		if i%100 == 0 {
			put(catar.Entry{Depth: 1, Name: fmt.Sprintf("d%05d", i/100), Mode: catar.ModeDir | 0o755}, nil)
		}
		data := fmt.Appendf(nil, "%0300d", i)
		put(catar.Entry{Depth: 2, Name: fmt.Sprintf("f%02d", i%100), Mode: catar.ModeRegular | 0o644, Size: uint64(len(data))}, data)
	}
	for _, err := range []error{err, w.Close(), f.Close()} {
		if err != nil {
			b.Fatal(err)
		}
	}
	return name
}

// BenchmarkExtractSmallFiles shows that the time is linear in the number of
// files, and how it compares with casync's. -benchtime=1x is enough.
func BenchmarkExtractSmallFiles(b *testing.B) {
	for _, n := range []int{25_000, 100_000} {
		name := smallFiles(b, n)
		for tool, run := range map[string]func(b *testing.B, dest string){
			"ours": func(b *testing.B, dest string) {
				if _, err := archive.Extract(b.Context(), open(b, name), dest, everything(b)); err != nil {
					b.Fatal(err)
				}
			},
			"casync": func(b *testing.B, dest string) { casync(b, "extract", "--with=unix", name, dest) },
		} {
			b.Run(fmt.Sprintf("%s/%d", tool, n), func(b *testing.B) {
				for b.Loop() {
					dest := filepath.Join(b.TempDir(), "dest")
					run(b, dest)
					b.StopTimer()
					if err := os.RemoveAll(dest); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/file")
			})
		}
	}
}

// BenchmarkSeedSmallFiles extracts an index over the tree that is there already:
// seeding is linear too.
func BenchmarkSeedSmallFiles(b *testing.B) {
	for _, n := range []int{5_000, 20_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			dir := b.TempDir()
			source := filepath.Join(dir, "source")
			extract(b, smallFiles(b, n), source)
			index := filepath.Join(dir, "x.caidx")
			makeOf(b, source, index, nil)
			for b.Loop() {
				done, err := archive.Extract(b.Context(), open(b, index), source, everything(b))
				if err != nil || done.Fetched > 0 {
					b.Fatalf("%+v, %v", done, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/file")
		})
	}
}
