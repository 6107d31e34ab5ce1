package pipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func send(text string) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		_, err := io.Copy(w, strings.NewReader(text))
		return err
	}
}

func TestRun(t *testing.T) {
	var got []byte
	err := Run(t.Context(), send("text"), func(_ context.Context, r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	})
	if err != nil || string(got) != "text" {
		t.Errorf("got %q, %v", got, err)
	}
}

// Whatever the sizes of the steps, the bytes are the same.
func TestRunSizes(t *testing.T) {
	want := []byte(strings.Repeat("0123456789abcde", 100_000))
	for _, step := range []int{7, 4096, blockSize, blockSize + 1, len(want)} {
		var got []byte
		err := Run(t.Context(), func(_ context.Context, w io.Writer) error {
			for b := range slices.Chunk(want, step) {
				if n, err := w.Write(b); n != len(b) || err != nil {
					return fmt.Errorf("wrote %d of %d: %w", n, len(b), err)
				}
			}
			return nil
		}, func(_ context.Context, r io.Reader) (err error) {
			got, err = io.ReadAll(iotest.HalfReader(r))
			return err
		})
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("by %d: %d bytes, %v", step, len(got), err)
		}
	}
}

// A reader that has seen enough does not fail the writer.
func TestRunReaderStopsEarly(t *testing.T) {
	err := Run(t.Context(), send(strings.Repeat("x", 1<<20)), func(_ context.Context, r io.Reader) error {
		_, err := io.ReadFull(r, make([]byte, 5))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// The side that fails is the one that is heard, and it ends the other.
func TestRunFails(t *testing.T) {
	broken := errors.New("broken")
	for name, sides := range map[string]struct {
		write func(context.Context, io.Writer) error
		read  func(context.Context, io.Reader) error
	}{
		"writer": {
			func(context.Context, io.Writer) error { return broken },
			func(_ context.Context, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
		},
		"reader": {
			send(strings.Repeat("x", 1<<20)),
			func(context.Context, io.Reader) error { return broken },
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Run(t.Context(), sides.write, sides.read); !errors.Is(err, broken) {
				t.Errorf("error %v, want %v", err, broken)
			}
		})
	}
}

func TestRunCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, func(ctx context.Context, _ io.Writer) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}, func(_ context.Context, r io.Reader) error {
		_, err := io.ReadAll(r)
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}
