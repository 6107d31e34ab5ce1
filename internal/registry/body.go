package registry

import (
	"errors"
	"fmt"
	"io"
)

// body reads an object from the first of several sources that has it, and goes on
// where that was cut.
type body struct {
	// sources open the object at an offset.
	sources []func(offset int64) (io.ReadCloser, error)
	at      int // the source in use
	rc      io.ReadCloser

	off, size int64
	failed    int // tries since the last progress
	retries   int
	again     func(failed int) error // waits
	stopped   func() error
}

// open opens the rest at the first source that gives it, from the one in use on.
func (b *body) open() error {
	var errs []error
	for ; b.at < len(b.sources); b.at++ {
		rc, err := b.sources[b.at](b.off)
		if err == nil {
			b.rc = rc
			return nil
		}
		if errs = append(errs, worded(err)); b.stopped() != nil {
			break
		}
	}
	b.at = 0 // perhaps they are well again at the next try
	return last(errs)
}

func (b *body) Read(p []byte) (int, error) {
	for {
		if err := b.reopen(); err != nil {
			return 0, err
		}
		n, err := b.rc.Read(p)
		if b.off += int64(n); n > 0 {
			b.failed = 0
		}
		if err == nil || err == io.EOF && b.off >= b.size {
			return n, err
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err := b.cut(err); err != nil || n > 0 {
			return n, err
		}
	}
}

// reopen opens the source again if reading it was cut.
func (b *body) reopen() error {
	for b.rc == nil {
		err := b.again(b.failed)
		if err == nil {
			err = b.open()
		}
		if err == nil {
			return nil
		}
		if err := b.cut(err); err != nil {
			return err
		}
	}
	return nil
}

// cut takes note of a failure, and returns it if it was one too many.
func (b *body) cut(err error) error {
	if b.rc != nil {
		_ = b.rc.Close() // it has failed already
		b.rc = nil
	}
	if stopped := b.stopped(); stopped != nil {
		return stopped
	}
	if b.failed++; b.failed <= b.retries {
		return nil
	}
	if !errors.Is(err, ErrNetwork) {
		err = fmt.Errorf("%w: %w", ErrNetwork, err)
	}
	return fmt.Errorf("after %d of %d bytes: %w", b.off, b.size, err)
}

func (b *body) Close() error {
	if b.rc == nil {
		return nil
	}
	return b.rc.Close()
}
