package delta

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/deflate"
)

// cpu is the processor time of this process: what a core does, however busy the
// machine is.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkApply says how many bytes of contents a core makes in a second: of
// programs, of gzip files as man pages are, and of zip files as jars are. The last
// two are bound by the encoders, which have to do again what the programs did.
func BenchmarkApply(b *testing.B) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	program = program[:min(len(program), 8<<20)]
	var text strings.Builder
	r := rand.New(rand.NewPCG(1, 1))
	for range 40_000 {
		fmt.Fprintf(&text, "%x ", uint32(r.IntN(r.IntN(3000)+1))*0x9e3779b1)
	}
	pages := func(change string) (list []file) {
		for i := range 100 {
			page := fmt.Sprint(i, change, text.String()[i*100:i*100+8_000])
			list = append(list, file{fmt.Sprintf("%d.gz", i), gzipped(deflate.Encoder(0x19), page)})
		}
		return list
	}
	jars := func(change string) (list []file) {
		for i := range 10 {
			list = append(list, file{fmt.Sprintf("%d.jar", i), jar(b, fmt.Sprint(i, change, text.String()), text.String()[:20_000])})
		}
		return list
	}
	for _, bb := range []struct {
		name     string
		old, new []file
	}{
		{"programs", []file{{"a", string(program)}}, []file{{"a", edit(1, string(program))}}},
		{"new", nil, []file{{"a", string(program)}}},
		{"gzip", pages("old"), pages("new")},
		{"zip", jars("old"), jars("new")},
	} {
		b.Run(bb.name, func(b *testing.B) {
			from, to := newTree(b, bb.old...), newTree(b, bb.new...)
			made, _ := makeDelta(b, from, to, MakeOptions{Quality: 9})
			have := newDevice(bb.old...).have
			size := int64(0)
			for _, f := range bb.new {
				size += int64(len(f.content))
			}
			b.SetBytes(size)
			began := cpu(b)
			for b.Loop() {
				r := bytes.NewReader(made)
				h, err := ReadHead(r, 1<<20)
				if err != nil {
					b.Fatal(err)
				}
				if err := Apply(b.Context(), r, Job{
					Head: h, Contents: contents(to.TOC.Nodes),
					Base: func(_ context.Context, i int) (BaseReader, error) {
						return memory{bytes.NewReader([]byte(have[h.Bases[i].Prefix]))}, nil
					},
					Output: func(context.Context, int) (Output, error) {
						return finishFunc(func(err error) {
							if err != nil {
								b.Error(err)
							}
						}), nil
					},
				}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size)*float64(b.N)/1e6/(cpu(b)-began).Seconds(), "MB/cpu-s")
		})
	}
}
