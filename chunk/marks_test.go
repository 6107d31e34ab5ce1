package chunk

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// cutMarked returns the ends of the chunks of b, which is marked by the piece.
func cutMarked(t interface{ Fatal(...any) }, k kernel, b []byte, p Params, piece int) []int {
	c, err := NewCutter(p)
	if err != nil {
		t.Fatal(err)
	}
	c.kernel = k
	const room = markWindow
	var cuts []int
	var marks []uint64
	chunk := 0 // where the chunk at hand begins
	for at := 0; at < len(b); at += piece {
		end := min(at+piece, len(b))
		before := make([]byte, room)
		copy(before[max(room-at, 0):], b[max(at-room, 0):at])
		marks = c.Mark(marks, slices.Concat(before, b[at:end]), room)
		for {
			n, ok := c.NextMarked(b[chunk:end:end], at-chunk, marks)
			if !ok {
				break
			}
			chunk += n
			cuts = append(cuts, chunk)
		}
	}
	if chunk < len(b) {
		cuts = append(cuts, len(b))
	}
	return cuts
}

// What is marked beforehand, in pieces of any length, is cut the same.
func TestMarks(t *testing.T) {
	random := noise(9, 1<<16)
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		var b []byte
		for range rapid.IntRange(1, 6).Draw(t, "parts") {
			b = slices.Concat(b, drawPart(t, random),
				make([]byte, rapid.SampledFrom([]int{0, 47, 3000, 60_000}).Draw(t, "zeros")))
		}
		piece := rapid.IntRange(1, max(len(b), 1)).Draw(t, "piece")
		if len(b)/piece > 5000 {
			piece += 100
		}
		want := reference(b, p)
		for _, k := range all() {
			if got := cutMarked(t, k, b, p, piece); !slices.Equal(got, want) {
				t.Fatalf("%s, %v by %d: cuts %v, want %v", k.name, p, piece, got, want)
			}
		}
	})
	for _, p := range someParams {
		data := noise(1, 100_000)
		for _, k := range all() {
			if got := cutMarked(t, k, data, p, 9999); !slices.Equal(got, reference(data, p)) {
				t.Errorf("%s, %v: other cuts", k.name, p)
			}
		}
	}
}
