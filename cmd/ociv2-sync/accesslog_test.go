package main

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Lines are written when a second has passed, when there are many, and at the end.
func TestLineBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		b := newLineBuffer(&out)
		write := func(line string) {
			if n, err := b.Write([]byte(line)); n != len(line) || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		}
		check := func(want string) {
			t.Helper()
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if got := out.String(); got != want {
				t.Errorf("%.40q of %d bytes is written, want %.40q of %d", got, len(got), want, len(want))
			}
		}
		for range 2 {
			out.Reset()
			write("one\n")
			time.Sleep(logDelay / 2)
			write("two\n")
			check("")
			time.Sleep(logDelay / 2)
			check("one\ntwo\n")
		}
		out.Reset()
		long := strings.Repeat("x", logBytes-5) + "\n"
		write("one\n")
		write(long)
		check("one\n" + long)
		write("last\n")
		must(t, b.Close())
		check("one\n" + long + "last\n")
	})
}
