package multihash

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"pgregory.net/rapid"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func check(t interface{ Fatalf(string, ...any) }, messages [][]byte) {
	got := make([][32]byte, len(messages))
	for _, k := range append(kernels(), kernel{name: "plain"}) {
		clear(got)
		sum(k, got, messages)
		for i, m := range messages {
			if want := sha512.Sum512_256(m); got[i] != want {
				t.Fatalf("%s: message %d of %d, %d bytes: %x, want %x", k.name, i, len(messages), len(m), got[i], want)
			}
		}
	}
}

// Every length around the block sizes, and more messages than one batch takes.
func TestLengths(t *testing.T) {
	data := noise(4 * blockSize)
	var messages [][]byte
	for n := range data {
		messages = append(messages, data[:n])
	}
	check(t, messages)
	for n := range 12 {
		check(t, messages[100:100+n])
	}
}

func TestProperty(t *testing.T) {
	data := noise(1 << 16)
	rapid.Check(t, func(t *rapid.T) {
		messages := make([][]byte, rapid.IntRange(0, 40).Draw(t, "messages"))
		for i := range messages {
			at := rapid.IntRange(0, len(data)).Draw(t, "at")
			messages[i] = data[at : at+rapid.IntRange(0, len(data)-at).Draw(t, "length")]
		}
		check(t, messages)
	})
}

func FuzzSum(f *testing.F) {
	f.Add(noise(2000), []byte{0, 1, 0, 128, 1, 0, 0, 17, 0, 111, 0, 112, 0, 240})
	f.Fuzz(func(t *testing.T, data, lengths []byte) {
		var messages [][]byte
		for ; len(lengths) >= 2; lengths = lengths[2:] {
			n := min(int(binary.BigEndian.Uint16(lengths)), len(data))
			messages = append(messages, data[:n])
			data = data[n/2:]
		}
		check(t, messages)
	})
}

func TestNoGarbage(t *testing.T) {
	data := noise(1 << 16)
	messages := make([][]byte, 32)
	for i := range messages {
		messages[i] = data[i*100:]
	}
	got := make([][32]byte, len(messages))
	if n := testing.AllocsPerRun(10, func() { Sum512_256(got, messages) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkSum(b *testing.B) {
	data := noise(2 << 20)
	r := rand.New(rand.NewPCG(1, 2))
	var messages [][]byte
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 16<<10+int(r.ExpFloat64()*49535))
		messages, rest = append(messages, rest[:n]), rest[n:]
	}
	got := make([][32]byte, len(messages))
	run := func(b *testing.B, f func()) {
		b.SetBytes(int64(len(data)))
		b.ReportAllocs()
		start := cpuTime()
		for b.Loop() {
			f()
		}
		b.ReportMetric(float64(b.N)*float64(len(data))/1e6/(cpuTime()-start), "MB/cpu-s")
	}
	for _, k := range kernels() {
		for _, n := range []int{2, 3, 4, 8, len(messages)} {
			b.Run(fmt.Sprintf("%s/%d", k.name, n), func(b *testing.B) {
				run(b, func() {
					for rest, dst := messages, got; len(rest) >= n; rest, dst = rest[n:], dst[n:] {
						sum(k, dst[:n], rest[:n])
					}
				})
			})
		}
	}
	b.Run("one", func(b *testing.B) {
		run(b, func() {
			for i, m := range messages {
				got[i] = sha512.Sum512_256(m)
			}
		})
	})
}

// cpuTime is what this process has used, in seconds: on a busy machine it says
// more than the clock.
func cpuTime() float64 {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}
