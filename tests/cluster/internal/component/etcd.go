package component

import (
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

// etcd serves one member on loopback of its network namespace, with its data in the folder given as the argument.
func etcd() int { return report(serveEtcd(os.Args[1])) }

func serveEtcd(folder string) error {
	configuration := embed.NewConfig()
	configuration.Dir = folder
	configuration.LogLevel = "warn"
	// The data need not survive the machine, and fsync is most of what an API call would wait for.
	configuration.UnsafeNoFsync = true
	client, peer := loopback(2379), loopback(2380)
	configuration.ListenClientUrls, configuration.AdvertiseClientUrls = client, client
	configuration.ListenPeerUrls, configuration.AdvertisePeerUrls = peer, peer
	configuration.InitialCluster = configuration.InitialClusterFromName(configuration.Name)
	server, err := embed.StartEtcd(configuration)
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	defer server.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		return nil
	case err := <-server.Err():
		return fmt.Errorf("serve etcd: %w", err)
	}
}

func loopback(port int) []url.URL {
	return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
}
