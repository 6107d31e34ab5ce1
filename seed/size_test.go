package seed

import (
	"testing"
	"unsafe"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Of these there are as many as an image has files, and a pull of 200,000 has its bound of
// memory (scripts/seeds memory).
func TestSizes(t *testing.T) {
	if n := unsafe.Sizeof(Content{}); n > 72 {
		t.Errorf("a content takes %d bytes", n)
	}
	if n := unsafe.Sizeof(toc.Node{}); n > 144 {
		t.Errorf("a node takes %d bytes", n)
	}
}
