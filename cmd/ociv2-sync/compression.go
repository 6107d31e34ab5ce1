package main

import (
	"github.com/spf13/pflag"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// compressionFlag is how new chunks are compressed, as a flag.
type compressionFlag struct{ store.Compression }

func (c *compressionFlag) add(f *pflag.FlagSet) {
	f.Var(c, "compression", "`COMPRESSION` of new chunks: zstd, xz or gzip; zstd:LEVEL (1 to 22) and gzip:LEVEL (1 to 9) choose between time and size")
}

// Type names the kind of value in help texts.
func (c *compressionFlag) Type() string { return "COMPRESSION" }

func (c *compressionFlag) Set(text string) (err error) {
	c.Compression, err = store.ParseCompression(text)
	return err
}
