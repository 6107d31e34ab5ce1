package assemble

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// build measures making a tree, and updating it to itself, with the tree that fill makes as
// a seed. per counts what the cost of one is reported for.
func build(b *testing.B, per int, fill func(dir string)) {
	source := b.TempDir()
	fill(source)
	src, err := tree.Scan(b.Context(), source)
	if err != nil {
		b.Fatal(err)
	}
	defer src.Close()
	contents := toc.NewCopier(src)
	for i := range src.Nodes {
		if n := &src.Nodes[i]; n.IsRegular() && n.Link < 0 && n.Size > 0 {
			if err := contents.Copy(b.Context(), discard{}, i); err != nil {
				b.Fatal(err)
			}
		}
	}
	contents.Spread()
	for b.Loop() {
		dir, err := os.MkdirTemp(b.TempDir(), "")
		if err != nil {
			b.Fatal(err)
		}
		dest, err := tree.OpenDir(dir)
		if err != nil {
			b.Fatal(err)
		}
		for _, run := range []func() (*Stats, error){
			func() (*Stats, error) {
				return Run(b.Context(), Job{Nodes: src.Nodes, Plan: planOf(b, src.Nodes, source)}, dest, Options{})
			},
			func() (*Stats, error) {
				return Update(b.Context(), Job{Nodes: src.Nodes, Plan: planOf(b, src.Nodes, dir)}, dest, Options{})
			},
		} {
			if _, err := run(); err != nil {
				b.Fatal(err)
			}
		}
		if err := dest.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(per), "ns/unit")
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func planOf(b *testing.B, nodes []toc.Node, dir string) *seed.Plan {
	b.Helper()
	s, err := seed.OpenDir(dir, seed.DirOptions{})
	if err != nil {
		b.Fatal(err)
	}
	plan, err := seed.Match(b.Context(), nodes, []seed.Seed{s}, nil)
	if err != nil {
		b.Fatal(err)
	}
	return plan
}

// BenchmarkFiles shows that the cost of a file does not depend on how many there are: up to
// 200,000, with some of them in one directory. ns/unit is that of a file.
func BenchmarkFiles(b *testing.B) {
	for _, files := range []int{12500, 50000, 200000} {
		b.Run(fmt.Sprint(files), func(b *testing.B) {
			build(b, files, func(dir string) {
				for i := range files {
					sub := filepath.Join(dir, fmt.Sprint("dir", i%50))
					if i < 50 {
						if err := os.Mkdir(sub, 0o755); err != nil {
							b.Fatal(err)
						}
					}
					if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("file", i)), fmt.Appendf(nil, "content %d\n", i), 0o644); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}

// BenchmarkLargeFile shows that the cost of a byte does not depend on the size of its file: up to
// 20 GB, most of it a hole, so that the disk need not have it. ns/unit is that of a megabyte.
func BenchmarkLargeFile(b *testing.B) {
	for _, megs := range []int{1250, 5000, 20000} {
		b.Run(fmt.Sprint(megs, "MB"), func(b *testing.B) {
			build(b, megs, func(dir string) {
				f, err := os.Create(filepath.Join(dir, "large"))
				if err != nil {
					b.Fatal(err)
				}
				defer f.Close()
				for at := int64(0); at < int64(megs)*1e6; at += 100e6 {
					if _, err := f.WriteAt(fmt.Append(nil, "at ", at), at); err != nil {
						b.Fatal(err)
					}
				}
				if err := f.Truncate(int64(megs) * 1e6); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}
