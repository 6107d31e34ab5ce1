package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/folbricht/desync"
)

// desyncName is what the test binary is called as to be what scripts need of desync's
// program, by its library, whose program does no more:
//
//	desync pull - - - STORE       serve a chunk store, as its ssh server
//	desync cache STORE-URL INDEX  fetch the chunks of an index, as its ssh or sftp client
const desyncName = "desync"

func desyncMain() {
	if err := desyncRun(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "desync:", err)
		os.Exit(1)
	}
}

func desyncRun(args []string) error {
	if len(args) == 5 && args[0] == "pull" {
		s, err := desync.NewLocalStore(args[4], desync.StoreOptions{SkipVerify: true})
		if err != nil {
			return err
		}
		return desync.NewProtocolServer(os.Stdin, os.Stdout, s).Serve(context.Background())
	}
	if len(args) != 3 || args[0] != "cache" {
		return fmt.Errorf("called with %q", args)
	}
	at, err := url.Parse(args[1])
	if err != nil {
		return err
	}
	o := desync.StoreOptions{N: 2}
	var s desync.Store
	if at.Scheme == "sftp" {
		s, err = desync.NewSFTPStore(at, o)
	} else {
		s, err = desync.NewRemoteSSHStore(at, o)
	}
	if err != nil {
		return err
	}
	indexes, err := desync.NewLocalIndexStore(filepath.Dir(args[2]))
	if err != nil {
		return err
	}
	x, err := indexes.GetIndex(filepath.Base(args[2]))
	if err != nil {
		return err
	}
	for _, c := range x.Chunks {
		got, err := s.GetChunk(c.ID)
		if err != nil {
			return err
		}
		data, err := got.Data()
		if err != nil {
			return err
		}
		if len(data) != int(c.Size) {
			return fmt.Errorf("chunk %s has %d bytes, not %d", c.ID, len(data), c.Size)
		}
	}
	fmt.Println(len(x.Chunks), "chunks")
	return s.Close()
}
