// Package pipe joins what writes a stream to what reads one.
package pipe

import (
	"context"
	"io"

	"golang.org/x/sync/errgroup"
)

// Run runs the writer and the reader of one stream side by side and returns
// when both have ended. The error is that of the side that failed first; the
// other side's next call then fails, also when ctx ends while it waits.
func Run(ctx context.Context, write func(context.Context, io.Writer) error, read func(context.Context, io.Reader) error) error {
	g, ctx := errgroup.WithContext(ctx)
	pr, pw := io.Pipe()
	stop := context.AfterFunc(ctx, func() { pr.CloseWithError(ctx.Err()) })
	defer stop()
	g.Go(func() error {
		err := write(ctx, pw)
		pw.CloseWithError(err)
		return err
	})
	g.Go(func() error {
		err := read(ctx, pr)
		if err == nil {
			// Whatever the reader left over, the writer may finish.
			_, err = io.Copy(io.Discard, pr)
		}
		return err
	})
	return g.Wait()
}
