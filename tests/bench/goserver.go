package main

import (
	"flag"
	"net"
	"os"
	"os/signal"
	"syscall"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/content/local"
	"github.com/containerd/containerd/services/content/contentserver"
	"google.golang.org/grpc"
)

const maxMessage = 16 << 20 // containerd's limit

// containerd's content service as containerd would serve it, without its metadata store: the least
// that a content plugin written in Go could do.
func goserverMain(args []string) error {
	fs := flag.NewFlagSet("goserver", flag.ExitOnError)
	socket := fs.String("socket", "", "unix socket to serve on")
	root := fs.String("root", "", "directory of the local store")
	fs.Parse(args)

	store, err := local.NewStore(*root)
	if err != nil {
		return err
	}
	os.Remove(*socket) // left by one that was killed
	l, err := net.Listen("unix", *socket)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	contentapi.RegisterContentServer(srv, contentserver.New(store))
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() { <-stop; srv.Stop() }()
	return srv.Serve(l)
}
