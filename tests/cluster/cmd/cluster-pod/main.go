// What runs in the test's pods: one small static program. Without arguments it is the pause container of each pod.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const usage = `usage: cluster-pod                   wait for the end (a pod's pause container)
       cluster-pod serve ADDRESS     answer HTTP:
           GET /                    the host name
           GET /ready               200, or 503 after PUT /unready
           GET /fetch?url=          what that URL answers to this pod
           GET /bytes?count=        so many bytes
           GET /environment?name=   the value of a variable
           GET /burn?for=           keep one processor busy for a duration
           GET /exit?code=          end the process
       cluster-pod files FOLDER      answer HTTP on port 8080 with the files below a folder
       cluster-pod allocate BYTES    touch that much memory, then wait
       cluster-pod write FILE        write to a file, print the user and the result
       cluster-pod read FILE         print what is in a file
       cluster-pod print TEXT        print it once and end`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 0:
		pause()
		return nil
	case len(arguments) != 2:
		return fmt.Errorf("%s", usage)
	}
	switch argument := arguments[1]; arguments[0] {
	case "serve":
		return serve(argument)
	case "files":
		http.Handle("GET /", http.FileServer(http.Dir(argument)))
		return listen(":8080")
	case "allocate":
		return allocate(argument)
	case "write":
		fmt.Println("user", os.Getuid())
		return os.WriteFile(argument, []byte("written"), 0o600)
	case "read":
		content, err := os.ReadFile(argument)
		fmt.Println(string(content))
		return err
	case "print":
		_, err := fmt.Println(argument)
		return err
	default:
		return fmt.Errorf("%s", usage)
	}
}

// pause holds the pod's namespaces open and reaps what other containers leave, where they share the process namespace.
func pause() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for received := range ended {
		if received != syscall.SIGCHLD {
			return
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}

func serve(address string) error {
	var unready atomic.Bool
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, name) })
	http.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		if unready.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("PUT /unready", func(http.ResponseWriter, *http.Request) { unready.Store(true) })
	http.HandleFunc("GET /fetch", fetch)
	http.HandleFunc("GET /environment", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, os.Getenv(r.FormValue("name"))) })
	http.HandleFunc("GET /bytes", func(w http.ResponseWriter, r *http.Request) {
		count, err := strconv.ParseUint(r.FormValue("count"), 10, 24)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = w.Write(make([]byte, count))
	})
	http.HandleFunc("GET /burn", func(w http.ResponseWriter, r *http.Request) {
		duration, err := time.ParseDuration(r.FormValue("for"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for end := time.Now().Add(duration); time.Now().Before(end) && r.Context().Err() == nil; {
		}
	})
	http.HandleFunc("GET /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	return listen(address)
}

// listen answers until a signal comes.
func listen(address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Println("serving on", listener.Addr())
	server := &http.Server{}
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ended.Done():
		fmt.Println("ending on a signal")
		return server.Shutdown(context.Background()) // waits for calls in flight
	}
}

func fetch(w http.ResponseWriter, r *http.Request) {
	client := http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(r.FormValue("url"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.WriteHeader(answer.StatusCode)
	_, _ = io.Copy(w, io.LimitReader(answer.Body, 1<<20))
}

func allocate(size string) error {
	bytes, err := strconv.Atoi(size)
	if err != nil {
		return fmt.Errorf("%q is no number of bytes: %w", size, err)
	}
	memory := make([]byte, bytes)
	for i := 0; i < len(memory); i += os.Getpagesize() {
		memory[i] = 1
	}
	fmt.Println("allocated", len(memory))
	pause()
	runtime.KeepAlive(memory)
	return nil
}
