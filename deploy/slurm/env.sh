# The environment of emstream on a node: sourced by workers (jobqueue.yaml) and by reprocess.sbatch. Edit for your site.
# module load cuda/12.4
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1   # one worker is one thread
# export HDF5_USE_FILE_LOCKING=FALSE              # HDF5 files on file systems without locks
# export AWS_PROFILE=microscopy                   # s3:// inputs; other stores: FSSPEC_S3_ENDPOINT_URL …
