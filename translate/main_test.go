package translate

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain shows that decompressors leave no goroutine behind, however a layer
// ends.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
