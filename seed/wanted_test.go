package seed

import (
	"math/rand/v2"
	"testing"
)

// add wants one more content.
func (w *Wanted) add(d Digest, size int64, name string) {
	w.set(append(w.contents, Content{Digest: &d, Size: size}))
	w.name(size, name)
}

// TestWanted compares the set with maps.
func TestWanted(t *testing.T) {
	type key struct {
		size int64
		d    Digest
	}
	r := rand.New(rand.NewPCG(1, 2))
	some := func() key { return key{int64(1 + r.IntN(8)), Digest{0: byte(r.IntN(16)), 31: byte(r.IntN(2))}} }
	for _, count := range []int{0, 1, 30, 200} {
		for _, short := range []bool{false, true} {
			w := &Wanted{short: short}
			plain, sizes := make(map[key]bool), make(map[int64]int)
			wanted := make(map[Digest]bool)
			var contents []Content
			for range count {
				k := some()
				if k.d = w.key(k.d); !wanted[k.d] {
					wanted[k.d], plain[k] = true, true
					sizes[k.size]++
					contents = append(contents, Content{Digest: &k.d, Size: k.size})
					w.name(k.size, "file")
				}
			}
			w.set(contents)
			named := make(map[int64]bool)
			for size := range sizes {
				named[size] = true
			}
			for range 1000 {
				k := some()
				if got := w.HasSize(k.size); got != (sizes[k.size] > 0) {
					t.Fatalf("HasSize(%d) = %v, %d are left", k.size, got, sizes[k.size])
				}
				if w.HasName(k.size, "file") != named[k.size] || w.HasName(k.size, "other") {
					t.Fatalf("HasName(%d) is wrong", k.size)
				}
				got, want := w.Take(k.d, k.size), plain[key{k.size, w.key(k.d)}]
				if got != want {
					t.Fatalf("Take(%x, %d) = %v, want %v", k.d, k.size, got, want)
				}
				if want {
					delete(plain, key{k.size, w.key(k.d)})
					sizes[k.size]--
				}
				if w.Left() != len(plain) {
					t.Fatalf("%d are left, want %d", w.Left(), len(plain))
				}
			}
		}
	}
}
